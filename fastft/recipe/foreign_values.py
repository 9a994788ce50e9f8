"""Values of other tools, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

_OTHER_GGUF = ("q3_k_s", "q3_k_l", "q4_1", "q4_k", "q5_1", "q5_k", "q3_k", "q2_k_l", "iq4_xs", "iq3_xxs", "iq2_xxs")

NO_PPO = (
    "TRL has removed its PPO trainer. For rewards given while it trains take grpo or rloo, for pairs of answers dpo, "
    "for a reward model reward"
)
_SIMPO = "SimPO is method: cpo with training.loss_type: simpo and training.cpo_alpha: 0"

FOREIGN_VALUES: Mapping[str, str] = {
    "merged_4bit_forced": "Did you mean merged_4bit?",
    "simpo": _SIMPO,
    "alphapo": f"{_SIMPO}; AlphaPO the same with loss_type: alphapo and training.alpha",
    "ppo": NO_PPO,
    "ipo": "It is method: dpo with training.loss_type: ipo",
    "kto_pair": "It is method: kto, whose rows have one answer and a label",
    "rm": "Did you mean reward?",
    "pt": "Did you mean pretrain?",
    "pretraining": "Did you mean pretrain?",
    "cpt": "Did you mean pretrain?",
    "safetensors": "A folder of safetensors is merged_16bit",
    "lora": "Did you mean adapter? It is always kept in the run's adapter/ folder, too",
    "ollama": "gguf writes an Ollama Modelfile beside the model",
    "auto": "Leave the key out and it is chosen",
    "bf16": "Did you mean bfloat16?",
    "fp16": "Did you mean float16?",
    "fp32": "Did you mean float32?",
    "chatml": "ChatML rows are format messages; as a template it goes into data.chat_template",
    "chat_template": "Did you mean messages?",
    "openai": "Did you mean messages?",
    "conversational": "Did you mean messages?",
    "completion": "Raw text is format text; rows with a prompt are prompt_completion",
    "adamw": "Did you mean adamw_torch?",
    "adam": "Did you mean adamw_torch?",
    "paged_adamw": "Did you mean paged_adamw_32bit?",
    **dict.fromkeys(_OTHER_GGUF, "This type is not made: q4_k_m is the usual 4-bit one, q8_0 is closer to the model"),
}
