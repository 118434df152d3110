"""Loading vision-language models of the transformers library, encoding an image and a prompt, and
where each visual token looks.
"""
