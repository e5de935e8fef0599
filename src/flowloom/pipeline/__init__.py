"""The pipeline: stages, tables, registers and priorities, declared once, checked, and rendered to docs."""
