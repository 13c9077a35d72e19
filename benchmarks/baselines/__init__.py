"""What the runtime is measured against."""
