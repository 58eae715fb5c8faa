"""Rollouts of vLLM on a CPU: python benchmarks/peers/vllm_generate.py WORK.json RESULT.json, in the environment `vllm`.

vLLM loads a folder and builds its own model, which cannot end responses with a given probability. Each request is given
its geometric length instead.
"""

import os
import tempfile

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

from dataclasses import replace

from transformers_generate import measured
from vllm import LLM, SamplingParams
from work import TOKENIZER, read, write

from lightning_rlhf.benchmark.lengths import response_lengths


def main() -> None:
    """Samples."""
    work = read()
    prompts = [{"prompt_token_ids": ids} for ids in work.ids()]
    lengths = [work.most] * work.rows
    if work.mean is not None:
        lengths = response_lengths(work.rows, work.mean, work.most, work.seed)
    settings = [
        SamplingParams(temperature=1.0, logprobs=0, max_tokens=length, ignore_eos=True, detokenize=False)
        for length in lengths
    ]
    with tempfile.TemporaryDirectory() as folder:
        replace(work, mean=None).causal_lm().save_pretrained(folder)
        llm = LLM(
            model=folder,
            tokenizer=str(TOKENIZER),
            dtype="float32",
            enforce_eager=True,
            max_model_len=work.longest + work.most,
            max_num_seqs=work.batch,
            enable_prefix_caching=False,
        )

        def sample() -> int:
            return sum(len(one.outputs[0].token_ids) for one in llm.generate(prompts, settings, use_tqdm=False))

        write(**measured(work, sample))


if __name__ == "__main__":
    main()
