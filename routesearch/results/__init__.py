"""What a study has found: points and fronts, trials as they are stored, the journal, its reader. No torch."""
