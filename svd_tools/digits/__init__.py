"""Everything about the model of moving digits alone: its data, task, judge, evaluation and publication."""
