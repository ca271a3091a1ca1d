"""What the finish reasons of the providers mean, as their documentation says."""

from __future__ import annotations

import pytest

from pudistill_cli.teacher.finish_reasons import ending

REASONS = {
    "whole": [
        *("stop", "STOP", "", " ", "null"),  # OpenAI; Gemini; none
        *("end_turn", "stop_sequence"),  # Anthropic, Bedrock
        *("eos", "eos_token"),  # Together; TGI, watsonx
        *("COMPLETE", "STOP_SEQUENCE"),  # Cohere
        *("eosFound", "stopStringFound"),  # LM Studio
        *("FinishReason.STOP", "FINISH_REASON_STOP", "REASON_STOP", "stop-sequence"),
    ],
    "cut off": [
        *("length", "MAX_TOKENS", "FinishReason.MAX_TOKENS", "FINISH_REASON_MAX_TOKENS", "maxTokens", "max-tokens"),
        *("max_tokens", "model_context_window_exceeded", "pause_turn"),  # Anthropic
        "model_length",  # Mistral
        *("max_output_tokens", "incomplete"),  # OpenAI's responses
        *("token_limit", "time_limit"),  # watsonx
        *("REASON_MAX_LEN", "REASON_MAX_CONTEXT", "REASON_TIME_LIMIT"),  # xAI
        *("contextLengthReached", "maxPredictedTokensReached"),
        "repetition",  # vLLM
    ],
    "filtered": [
        *("content_filter", "content-filter", "contentFilter", "refusal", "guardrail_intervened", "content_filtered"),
        *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "MODEL_ARMOR"),
        "sensitive",  # Zhipu
        "ERROR_TOXIC",  # Cohere
    ],
    "tool call": ["tool_calls", "function_call", "tool_use", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"],
    "error": [
        *("error", "ERROR", "upstream_error", "timeout", "cancelled", "USER_CANCEL", "rate_limit"),
        "insufficient_system_resource",  # DeepSeek
        "network_error",  # Zhipu
        "abort",  # vLLM, SGLang
        *("load", "unload", "modelUnloaded"),  # Ollama, LM Studio
    ],
    "unknown": ["OTHER", "FINISH_REASON_UNSPECIFIED", "quiescence", "userStopped", "unstoppable", "?", "calendar"],
}


@pytest.mark.parametrize(("meaning", "reason"), [(m, reason) for m, reasons in REASONS.items() for reason in reasons])
def test_reasons(meaning, reason):
    assert ending(reason) == meaning
