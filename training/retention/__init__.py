"""What is kept: what space `release gc` frees, and where people to be forgotten were seen."""
