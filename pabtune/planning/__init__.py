"""Pure arithmetic on records: windows, masks, presets, costs. No torch."""
