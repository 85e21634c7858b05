"""The parts of `Runtime` that are separate objects: `runtime.state`, `.runs`, `.checkpoints`, `.grants`, `.approvals`."""
