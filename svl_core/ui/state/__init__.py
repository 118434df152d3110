"""What a visitor has chosen, as plain values: the controls, the strip of layers, the sample sets,
and what of it can be taken along.
"""
