"""What a forward pass tells about a model's layers: attention statistics, token importance,
redundancy, feature gaps.
"""
