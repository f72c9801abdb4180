"""What MLX dispatches; each module registers its families."""
from families import attention, elementwise, matmul, quantized, rows, transforms  # noqa: F401
