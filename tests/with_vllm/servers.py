"""Starts real vLLM servers on this machine."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
from support import free_port
from transformers import PreTrainedModel

START = 300.0


class Server:
    """A vLLM server of a model's architecture, with weights of its own, in a process that tests may kill."""

    def __init__(self, net: PreTrainedModel, folder: Path, *arguments: str) -> None:
        net.save_pretrained(folder / "model")
        self.folder, self.arguments, self.port = folder, arguments, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Starts the process."""
        command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder / "model")]
        command += ["--port", str(self.port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
        command += [
            "--enable-scale-out",
            "--skip-tokenizer-init",
            "--logprobs-mode",
            "processed_logprobs",
            "--generation-config",
            "vllm",
        ]
        command += ["--worker-extension-cls", "lightning_rlhf.rollout.engines.vllm_worker.TakesWeights"]
        command += ["--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "16", *self.arguments]
        environment = {
            **os.environ,
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
        log = (self.folder / "log.txt").open("a")
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def wait(self) -> "Server":
        """Waits until the server answers."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()[-3000:]
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return self
            except httpx.TransportError:
                time.sleep(0.5)
        raise TimeoutError((self.folder / "log.txt").read_text()[-3000:])

    def kill(self) -> None:
        """Kills the server with its worker processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
