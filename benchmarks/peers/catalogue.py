"""Who is compared: the environments, the models in each format, and the systems that run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = REPOSITORY / "build" / "peers"
STORYTELLER = REPOSITORY / "models" / "storyteller"
CLASSES = ("fp32", "int8", "int4")
OURS = "ortgpt"


@dataclass(frozen=True)
class System:
    """One row of the tables.

    engine       module in engines/
    environment  directory in build/peers/env that runs it
    model        directory among the converted models; "" is the checkpoint itself
    variant      what the engine is told beyond the model
    grade        the class it competes in; in every class it is compared with each of ours
    """

    name: str
    engine: str
    environment: str
    model: str
    grade: str
    variant: str = "default"
    beams: bool = True

    @property
    def is_ours(self) -> bool:
        return self.environment == OURS


def ours(name: str, precision: str, grade: str) -> System:
    """precision: with +fast behind it, exported with --fast-prefill."""
    return System(name, "ortgpt_engine", OURS, f"ortgpt-{precision}", grade)


def openvino(name: str, model: str, grade: str, variant: str = "default") -> tuple[System, System]:
    """With PagedAttention, the pipeline's own choice, and without; neither is always the faster."""
    engine, directory = "openvino_engine", f"openvino-{model}"
    return (
        System(f"OpenVINO {name}", engine, "openvino", directory, grade, variant),
        System(f"OpenVINO {name} SDPA", engine, "openvino", directory, grade, f"{variant},SDPA"),
    )


def llama(quantisation: str, grade: str) -> System:
    return System(
        f"llama.cpp {quantisation}", "llama_engine", "llama", f"llama-{quantisation}", grade, beams=False
    )


SYSTEMS = (
    ours("ortgpt fp32", "fp32", "fp32"),
    ours("ortgpt int8", "int8", "int8"),
    ours("ortgpt int8-dynamic", "int8-dynamic", "int8"),
    ours("ortgpt int4", "int4", "int4"),
    ours("ortgpt int4 fast", "int4+fast", "int4"),
    System("transformers", "transformers_engine", "transformers", "", "fp32"),
    System("optimum-onnx", "optimum_engine", "optimum", "optimum", "fp32"),
    System("CTranslate2 fp32", "ctranslate2_engine", "ctranslate2", "ctranslate2-fp32", "fp32"),
    System("CTranslate2 int8", "ctranslate2_engine", "ctranslate2", "ctranslate2-int8", "int8"),
    llama("f32", "fp32"),
    llama("q8_0", "int8"),
    llama("q4_0", "int4"),
    *openvino("f32", "fp32", "fp32", "f32"),
    *openvino("bf16", "fp32", "int8"),
    *openvino("int8", "int8", "int8"),
    *openvino("int4", "int4", "int4"),
    *openvino("int4 sym", "int4-sym", "int4"),
)
