"""Generation engines: one protocol (`protocol`), two ways to run it (`transformers_engine`, `vllm_engine`)."""
