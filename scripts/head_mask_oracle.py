"""Write what transformers 4.57 itself gives under `head_mask` and after `prune_heads`.

transformers 5 has neither, so this runs in an environment of its own, once:

    python -m venv oracle-env
    oracle-env/bin/pip install torch==2.13.0 transformers==4.57.6 safetensors numpy
    oracle-env/bin/python scripts/head_mask_oracle.py tests/gold/head_mask

For each type it writes a tiny model of random weights (`TYPE/model`), inputs, random head masks and
the outputs under each of them (`TYPE/expected.safetensors`), and where the class can be pruned
the pruned checkpoint (`TYPE/pruned`), whose `config.pruned_heads` says what was removed.
tests/test_head_mask_oracle.py compares.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

VOCABULARY, POSITIONS = 31, 16
BATCH, LENGTH, DECODER_LENGTH = 2, 7, 5
MASKS = 4
# layer -> heads, in the order in which 4.57 numbers layers
PRUNED = {0: [1, 3], 1: [0, 2, 4]}

BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 15,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 11,
    "max_position_embeddings": POSITIONS,
}
SETTINGS = {
    "bert": BERT,
    "roberta": {**BERT, "pad_token_id": 1, "max_position_embeddings": POSITIONS + 2},
    "electra": {**BERT, "embedding_size": 13},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 15,
        "n_layers": 2,
        "n_heads": 5,
        "hidden_dim": 11,
        "max_position_embeddings": POSITIONS,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 15,
        "n_layer": 2,
        "n_head": 5,
        "n_inner": 11,
        "n_positions": POSITIONS,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "bart": {
        "vocab_size": VOCABULARY,
        "d_model": 15,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 5,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 11,
        "decoder_ffn_dim": 13,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    "t5": {
        "vocab_size": VOCABULARY,
        "d_model": 13,
        "d_kv": 3,
        "num_heads": 5,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "d_ff": 11,
        "relative_attention_num_buckets": 8,
        "decoder_start_token_id": 0,
    },
    "vit": {
        "hidden_size": 15,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 11,
        "image_size": 12,
        "patch_size": 4,
    },
}


def build(kind: str) -> nn.Module:
    """The tiny model, every weight moved by noise so that none is zero, one or a constant."""
    config = transformers.AutoConfig.for_model(kind, **SETTINGS[kind])
    torch.manual_seed(sorted(SETTINGS).index(kind))
    model = transformers.AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def inputs_of(model: nn.Module) -> dict[str, Tensor]:
    """Pixels, or tokens whose second text is padded at its end."""
    generator = torch.Generator().manual_seed(0)
    if model.config.model_type == "vit":
        return {"pixel_values": torch.randn(BATCH, 3, 12, 12, generator=generator)}

    def tokens(length: int) -> Tensor:
        return torch.randint(4, VOCABULARY, (BATCH, length), generator=generator)

    attention_mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    attention_mask[1, -2:] = 0
    inputs = {"input_ids": tokens(LENGTH), "attention_mask": attention_mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens(DECODER_LENGTH)
    return inputs


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Random masks [masks, layers, heads] by the argument's name; the first masks nothing."""
    config, generator = model.config, torch.Generator().manual_seed(1)

    def random(layers: int, heads: int) -> Tensor:
        masks = torch.bernoulli(torch.full((MASKS, layers, heads), 0.6), generator=generator)
        masks[0] = 1
        return masks

    if not config.is_encoder_decoder:
        return {"head_mask": random(config.num_hidden_layers, config.num_attention_heads)}
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
    return {
        "head_mask": random(config.num_hidden_layers, config.num_attention_heads),
        "decoder_head_mask": random(layers, heads),
        "cross_attn_head_mask": random(layers, heads),
    }


def prunable(model: nn.Module) -> nn.Module:
    """What `prune_heads` works on: the model, or T5's encoder as a model of its own."""
    if model.config.model_type != "t5":
        return model
    encoder = transformers.T5EncoderModel(model.config).eval()
    encoder.load_state_dict(model.state_dict(), strict=False)
    return encoder


@torch.no_grad()
def write(kind: str, folder: Path) -> None:
    model = build(kind)
    inputs, masks = inputs_of(model), masks_of(model)
    tensors = {f"input.{name}": value for name, value in inputs.items()}
    tensors |= {f"mask.{name}": value.to(torch.uint8) for name, value in masks.items()}
    outputs = [
        model(**inputs, **{name: value[number] for name, value in masks.items()})
        for number in range(MASKS)
    ]
    tensors["output"] = torch.stack([output.last_hidden_state for output in outputs])
    assert torch.equal(tensors["output"][0], model(**inputs).last_hidden_state)
    assert (tensors["output"][1:] - tensors["output"][0]).abs().amax((1, 2, 3)).min() > 0.01
    model.save_pretrained(folder / "model")
    if kind != "bart":  # which has no prune_heads
        smaller = prunable(model)
        smaller.prune_heads(PRUNED)
        tensors["pruned"] = pruned_output(smaller, inputs)
        smaller.save_pretrained(folder / "pruned")
        if kind != "t5":  # 4.57 fails to load what it saved
            again = type(smaller).from_pretrained(folder / "pruned", attn_implementation="eager")
            torch.testing.assert_close(pruned_output(again, inputs), tensors["pruned"])
    if kind == "t5":  # for the decoder there is no prune_heads but the attention's own
        for layer, heads in PRUNED.items():
            model.decoder.block[layer].layer[0].SelfAttention.prune_heads(heads)
        tensors["pruned_decoder"] = pruned_output(model, inputs)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, folder / "expected.safetensors")


def pruned_output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The last states, from those inputs that the model takes."""
    if isinstance(model, transformers.T5EncoderModel):
        inputs = {name: value for name, value in inputs.items() if "decoder" not in name}
    return model(**inputs).last_hidden_state


def main() -> None:
    if len(sys.argv) != 2 or not transformers.__version__.startswith("4.57."):
        sys.exit(f"Expected a folder and transformers 4.57, not {transformers.__version__}.")
    target = Path(sys.argv[1])
    for kind in SETTINGS:
        (target / kind).mkdir(parents=True, exist_ok=True)
        write(kind, target / kind)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    (target / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
