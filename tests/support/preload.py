"""What the server behind `support.warm` imports once: large packages, nothing of ours."""

import os
import sys

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

import hydra  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mlflow.pyfunc  # noqa: F401
import optuna  # noqa: F401
import scipy.stats  # noqa: F401
import torch._dynamo
import torch.optim  # noqa: F401
import transformers.generation
import transformers.models.llama.modeling_llama  # noqa: F401
from rich import console, table  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import support.warm  # noqa: F401
from support.empty_store import fill_stores_from_one, make_empty_store

sys.dont_write_bytecode = False
fill_stores_from_one()
make_empty_store()
