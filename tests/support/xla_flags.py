"""XLA's flags in the processes of tests. Nothing of JAX is imported here, because they must be set before it starts."""

import importlib.metadata


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process with so many devices on its CPU."""
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    # XLA has two ways to make code of fused operations. With the usual one a training step takes twice as long to
    # compile, and that is most of what tests wait for. Later versions have no other, and refuse the flag.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
