"""The model: CLIP with orthogonal adaptation, MH-FPN, DC-HSP, cost aggregation."""
