"""The bank's table of bugs of sampling, tokenizer, sessions and the process; see `bank.py`."""

from certify.mutants.mutant import Mutant

__all__ = ["SERVING_BUGS"]

SERVING_BUGS: tuple[Mutant, ...] = (
    Mutant(
        "sample-seed-ignored",
        "sampling",
        "S",
        "all requests draw with the first one's seed",
        "https://github.com/flashinfer-ai/flashinfer/pull/4861",
        service="certify.mutants.sampling:SeedIgnored",
    ),
    Mutant(
        "sample-always-greedy",
        "sampling",
        "S",
        "temperature is ignored",
        "https://github.com/sgl-project/sglang/pull/37134",
        service="certify.mutants.sampling:AlwaysGreedy",
    ),
    Mutant(
        "sample-noise-by-count",
        "sampling",
        "S",
        "a draw depends on how many were drawn, not on the position",
        "https://github.com/ROCm/aiter/pull/2035",
        service="certify.mutants.sampling:NoiseWithoutPosition",
        level="standard",
    ),
    Mutant(
        "sample-processed-logprobs",
        "sampling",
        "S",
        "logprobs of the filtered distribution are reported as raw",
        "https://github.com/vllm-project/vllm/issues/9453",
        service="certify.mutants.sampling:ProcessedLogprobs",
    ),
    Mutant(
        "sample-top-k-one-more",
        "sampling",
        "S",
        "one candidate too many passes top_k",
        "https://github.com/flashinfer-ai/flashinfer/pull/3774",
        service="certify.mutants.sampling:TopKOneMore",
    ),
    Mutant(
        "sample-loses-best",
        "sampling",
        "S",
        "top_p loses the best token",
        "https://www.anthropic.com/engineering/a-postmortem-of-three-recent-issues",
        service="certify.mutants.sampling:LosesBestToken",
    ),
    Mutant(
        "sample-penalises",
        "sampling",
        "S",
        "a repetition penalty is on by default",
        "https://github.com/abetlen/llama-cpp-python/pull/1590",
        service="certify.mutants.sampling:Penalises",
    ),
    Mutant(
        "sample-stop-ignored",
        "sampling",
        "S",
        "stop ids are not looked at",
        "https://github.com/vllm-project/vllm/pull/45636",
        service="certify.mutants.sampling:StopIgnored",
    ),
    Mutant(
        "api-double-bos",
        "session",
        "T",
        "BOS is put in front of every text",
        "https://github.com/vllm-project/vllm/pull/16976",
        service="certify.mutants.session:DoublesBos",
    ),
    Mutant(
        "api-partial-utf8-lost",
        "session",
        "T",
        "partial UTF-8 becomes replacement characters",
        "https://github.com/ai-dynamo/dynamo/issues/12630",
        service="certify.mutants.session:LosesPartialUtf8",
    ),
    Mutant(
        "api-specials-parsed",
        "session",
        "T",
        "the name of a control token in a text becomes that token",
        "",
        service="certify.mutants.session:ParsesSpecials",
    ),
    Mutant(
        "api-blanks-stripped",
        "session",
        "T",
        "blanks at the ends of a text are lost",
        "",
        service="certify.mutants.session:StripsBlanks",
    ),
    Mutant(
        "api-ids-wrap",
        "session",
        "B",
        "ids outside the vocabulary are wrapped into it",
        "",
        service="certify.mutants.session:WrapsIds",
    ),
    Mutant(
        "api-overflow-slides",
        "session",
        "B",
        "what is past the context pushes out the oldest tokens",
        "",
        service="certify.mutants.session:OverflowSlides",
    ),
    Mutant(
        "api-closed-stays-open",
        "session",
        "BF",
        "a closed session goes on",
        "https://github.com/kvcache-ai/Mooncake/issues/1384",
        service="certify.mutants.session:ClosedStaysOpen",
    ),
    Mutant(
        "api-cancel-ignored",
        "session",
        "B",
        "a cancelled prefill runs to its end",
        "",
        service="certify.mutants.session:CancelIgnored",
    ),
    Mutant(
        "api-says-yes", "session", "B", "claims whatever it is asked for", "", service="certify.mutants.session:SaysYes"
    ),
    Mutant("api-aborts", "session", "B", "abort() in the third prefill", "", service="certify.mutants.session:Aborts"),
    Mutant(
        "api-hangs", "session", "B", "truncation never answers", "", service="certify.mutants.session:Hangs", call_s=5.0
    ),
)
