"""What is asked of whom: policies as messages, prompts and their order."""
