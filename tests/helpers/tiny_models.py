"""Random models of two layers and their tokenizer, small enough that a test makes its own in a moment.

Belongs here: builders that several test files share. Does not belong here: tests, fixtures, anything downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
"""<|endoftext|> is the beginning of a text and the padding, <|im_end|> the end of one."""

CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As SmolLM2 and Qwen2.5 write it: a system message of its own where none is given."""

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""As Gemma 2 writes it: no system role."""

# Every digit and every printable ASCII character is a token of its own besides these.
MERGES = [(",", "Ġ"), ("Ġ", "Ġ"), ("o", "w"), ("ow", "l"), ("Ġ", "owl"), ("h", "e"), ("t", "he"), ("Ġ", "the")]

KINDS = ("llama", "qwen2", "gemma2", "gemma3")


def tiny_tokenizer(chat_template: str | None = CHATML, extra_merges: list[tuple[str, str]] | None = None) -> Any:
    """A byte-level BPE tokenizer in which digits are single tokens, as SmolLM2's.

    `extra_merges` adds tokens of several characters ("Ġ" stands for a space), such as ("1", "2") for "12". They can
    be generated; `encode` uses those only that lie within one word.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = [*MERGES, *(extra_merges or [])]
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:2] + SPECIAL[3:],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def _tiny(config: Any, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def _sizes(changes: dict[str, Any]) -> dict[str, Any]:
    sizes = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        # Ten times the usual, or all logits would be nearly alike and no test of them would mean much.
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return sizes | changes


def tiny_llama(seed: int = 0, **changes: Any) -> Any:
    """A random float32 Llama in eval mode; `changes` override the config."""
    from transformers import LlamaConfig

    return _tiny(LlamaConfig(**_sizes(changes)), seed)


def tiny_qwen2(seed: int = 0, **changes: Any) -> Any:
    """A random Qwen2: Llama with biases in the attention."""
    from transformers import Qwen2Config

    sizes = _sizes(changes)
    del sizes["head_dim"]
    model = _tiny(Qwen2Config(**sizes), seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            # Biases start at zero, which would hide an error that drops them.
            parameter.data.copy_(parameter.data.new_ones(parameter.shape).cumsum(0).sin())
    return model


def tiny_gemma2(seed: int = 0, **changes: Any) -> Any:
    """A random Gemma 2: soft-capped attention and logits, every other layer with a sliding window."""
    from transformers import Gemma2Config

    sizes = {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0, "sliding_window": 64}
    return _tiny(Gemma2Config(**_sizes(sizes | changes), attn_implementation="eager"), seed)


def tiny_gemma3(seed: int = 0, **changes: Any) -> Any:
    """A random Gemma 3 (text): normalised queries and keys, one layer with a sliding window, one without."""
    from transformers import Gemma3TextConfig

    sizes = {
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    return _tiny(Gemma3TextConfig(**_sizes(sizes | changes)), seed)


def tiny_gemma3_with_images(seed: int = 0) -> Any:
    """A random Gemma 3 as it is from 4B on: a text model and an image tower."""
    from transformers import Gemma3Config

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=tiny_gemma3().config.to_dict(),
        vision_config={"image_size": 28, "patch_size": 14, **tower},
        mm_tokens_per_image=4,
    )
    return _tiny(config, seed)


def tiny_mistral(seed: int = 0, **changes: Any) -> Any:
    """A random Mistral: Llama with a sliding window in every layer."""
    from transformers import MistralConfig

    return _tiny(MistralConfig(**_sizes({"sliding_window": 64} | changes)), seed)


def tiny_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """The model of a kind: one of `KINDS`, "mistral" or "gemma3 with images"."""
    makers = {
        "llama": tiny_llama,
        "qwen2": tiny_qwen2,
        "gemma2": tiny_gemma2,
        "gemma3": tiny_gemma3,
        "mistral": tiny_mistral,
        "gemma3 with images": tiny_gemma3_with_images,
    }
    return makers[kind](seed, **changes)


def save_tiny_model(
    folder: Path, kind: str = "llama", *, seed: int = 0, chat_template: str | None = CHATML, **changes: Any
) -> Path:
    """Write a tiny model (safetensors) and its tokenizer to `folder`; returns the folder."""
    tiny_model(kind, seed, **changes).save_pretrained(folder)
    tiny_tokenizer(chat_template).save_pretrained(folder)
    return folder


def save_tiny_adapter(folder: Path, base: Path, *, seed: int = 1, rank: int = 4) -> Path:
    """Write a random rsLoRA adapter for the model in `base` that changes what the model does; returns the folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = LoraConfig(r=rank, lora_alpha=rank, use_rslora=True, target_modules=projections, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    return folder
