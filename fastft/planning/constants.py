"""Every constant of the plan that isn't arithmetic, with where it is from. docs/plan.md holds what they come to.

Bytes unless said otherwise.
"""

from __future__ import annotations

GIB = 1 << 30

# ---- a GPU -----------------------------------------------------------------------------------------------------------
# CUDA's context with cuBLAS, Triton's and bitsandbytes' kernels: nvidia-smi shows 0.4 to 0.6 GB for it on T4 to H100.
GPU_CONTEXT = 0.55e9
# What torch's allocator holds beside the tensors of a loaded model: Unsloth's 8B notebook on a T4 reserves 5.984 GiB
# after loading 5.87 GB of tensors (weights, and the LoRA's in float32).
GPU_ROUNDING = 0.55e9
# Blocks split by the allocator, of what comes and goes while training (unsloth_zoo/block_swap.py: fragmentation).
FRAGMENTATION = 1 / 16
# Dequantised projections that are alive at a time: the one at work and the one before it.
DEQUANTISED_AT_ONCE = 2
# Vectors of hidden size, 16 bits each, a token that live beside the recomputed layer's own: gradients of its output,
# input and residual, two buffers of reloaded inputs, the last hidden states, their gradient, the embeddings.
VECTORS_BESIDE_LAYER = 8
# unsloth_zoo/fused_losses/chunked_logprob.py: at least 512 rows or an eighth of them, 8 bytes a logit, at most 2 GiB.
CHUNK_ROWS = 512
CHUNK_PARTS = 8
CHUNK_BYTES_A_LOGIT = 8
CHUNK_CAP = 2 * GIB
# All logits at once: 16-bit, their 32-bit copy, and the gradient of that.
LOGIT_BYTES = (2, 4, 4)

# ---- the CPU; measured by bench/plan_calibration.py ------------------------------------------------------------------
# The process with torch, transformers, TRL and Unsloth imported, a tokenizer and a small data set.
CPU_PROCESS = 1.15e9
# What oneDNN comes to hold as batches of ever other sizes pass, each with kernels of its own (backend.py bounds their
# number): the quickstart grows from 1.13 to 1.65 GB in its first 50 steps, and by no more than 0.1 GB in 450 further.
CPU_KERNELS = 0.55e9
# What a layer's backward pass makes, as a share of what the layer keeps.
CPU_BACKWARD = 1.25
# unsloth_zoo/cpu/ops.py: chunks of so many logits, at least 16 rows; 16-bit logits, three copies in 32 bits, gradient.
CPU_CHUNK_ELEMENTS = 16 << 20
CPU_CHUNK_ROWS = 16
CPU_BYTES_A_LOGIT = 16

# ---- time ------------------------------------------------------------------------------------------------------------
# Share of the datasheet's rate that a training step reaches. Large matrix products alone reach 0.8 on an H200
# (shared figures); published MFUs of LoRA training lie between 0.3 and 0.55. Not measured by us on a GPU yet.
GPU_SHARE_OF_RATE = (0.25, 0.6)
FULL_RATE_HIDDEN = 4096  # below this hidden size the share falls
SHARE_OF_BANDWIDTH = 0.9  # 4.3 of an H200's 4.8 TB/s
HOST_SECONDS_A_LAYER = (0.3e-3, 1.5e-3)  # starting the kernels of forward and backward pass, of a micro-batch
ANSWERS_END_EARLY = 0.3  # share of the longest answer that the shortest batch may take
CPU_OPERATIONS_A_THREAD = (15e9, 60e9)
CPU_SECONDS_A_LAYER = (1e-3, 8e-3)
CPU_BANDWIDTH = 15e9
