"""What a forward pass says about a model's layers: attention statistics, token importance,
redundancy, feature gaps.
"""
