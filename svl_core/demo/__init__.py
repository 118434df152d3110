"""The bundled model's world: object art, scenes, questions, data readers and the training."""
