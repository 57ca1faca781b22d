"""What users call: networks, maths and files put together."""
