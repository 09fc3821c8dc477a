"""Registered versions: lineage, packaging, references, the gate and promotion."""
