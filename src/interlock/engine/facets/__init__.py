"""The parts of `Runtime` that have an object of their own: `runtime.state`, `.runs`, `.checkpoints`, `.grants`, `.approvals`."""
