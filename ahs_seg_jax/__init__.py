"""Open-vocabulary semantic segmentation in JAX: AHS-Seg on TPU, GPU and CPU."""

__version__ = "0.1.0"
