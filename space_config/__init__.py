"""What a Hugging Face Space or a container needs beside the project itself."""
