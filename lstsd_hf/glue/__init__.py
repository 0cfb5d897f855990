"""The paper's GLUE tasks: data, models, metrics and single training runs."""
