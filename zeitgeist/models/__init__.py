"""Reading models: Hugging Face directories, SafeTensors, GGUF, MLX; their canonical tensors and identity."""
