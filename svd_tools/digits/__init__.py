"""All that is about the model of moving digits alone: its videos, its judge, its evaluation, its publication."""
