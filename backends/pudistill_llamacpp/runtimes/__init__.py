"""What local runtimes need beside a GGUF file: Ollama's Modelfile, LM Studio's folder, the lines to type."""
