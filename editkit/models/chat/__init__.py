"""Chat models behind OpenAI-compatible endpoints: teachers, describers and judges ask them."""
