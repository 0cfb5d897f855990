"""GLUE's tasks: data, models, metrics and single training runs."""
