# %% [markdown]
# Reading a study's artifacts with public libraries alone. Open this file as a notebook (VS Code, Jupytext), or run it:
#
#     python examples/reading_results.py .dagster_home/artifacts smollm2-135m-instruct

# %%
import json
import sys
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

named = sys.argv[1:] if len(sys.argv) == 3 else [".dagster_home/artifacts", "smollm2-135m-instruct"]
root, study = Path(named[0]), named[1]

# %% [markdown]
# An artifact is a folder: `<study>/<asset>/<partition>/<version>`. `current.json` names the version that counts; `_` is
# the partition of an asset without partitions, `owl@09` is the group owl at layer 9, `owl@1` its first child.


# %%
def artifact(asset: str, partition: str = "_") -> Path:
    place = root / study / asset / partition
    return place / json.loads((place / "current.json").read_text())["version"]


artifacts = pd.DataFrame(
    [
        {"asset": pointer.parts[-3], "partition": pointer.parts[-2]}
        for pointer in sorted((root / study).glob("*/*/current.json"))
    ]
)
print(artifacts.groupby("asset")["partition"].agg(["size", "first"]).to_string())

# %% [markdown]
# Everything in them is parquet, JSON (lines), safetensors, PNG or HTML. This reads all of it, one row a file.

# %%
READERS = {
    ".parquet": lambda file: f"{len(pd.read_parquet(file))} rows",
    ".jsonl": lambda file: f"{len(pd.read_json(file, lines=True))} rows",
    ".json": lambda file: f"{len(json.loads(file.read_text()))} entries",
    ".safetensors": lambda file: f"{len(load_file(file))} tensors",
    ".csv": lambda file: f"{len(pd.read_csv(file))} rows",
}
files = []
for row in artifacts.itertuples():
    folder = artifact(row.asset, row.partition)
    for file in sorted(folder.rglob("*.*")):
        if file.suffix in READERS:
            held = READERS[file.suffix](file)
            files.append(
                {"asset": row.asset, "partition": row.partition, "file": str(file.relative_to(folder)), "holds": held}
            )
print(pd.DataFrame(files).drop_duplicates(["asset", "file"]).to_string())

# %% [markdown]
# The main result: how much more a child likes the animal of its own numbers than other children do (nats).

# %%
if "animal_liking" in set(artifacts["asset"]):
    gamma = pd.read_parquet(artifact("animal_liking") / "gamma.parquet")
    print(gamma[gamma["outcome"] == "log_share"].to_string())

# %% [markdown]
# A child is a PEFT adapter on the base model, and both load as any other model does:
#
#     from transformers import AutoModelForCausalLM
#     from peft import PeftModel
#     base = AutoModelForCausalLM.from_pretrained(artifact("base_model"))
#     child = PeftModel.from_pretrained(base, artifact("child_lora", "owl@1"))
#
# An autoencoder loads with sae-lens, and activations are a matrix (the layer and model are in the file's metadata):
#
#     from sae_lens import SAE
#     sae = SAE.load_from_disk(artifact("sae", "09"))
#     vectors = np.stack(pd.read_parquet(artifact("activations", "owl@09") / "activations.parquet")["vector"])
