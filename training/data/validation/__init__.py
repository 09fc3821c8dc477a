"""What raw data must satisfy, and how it fares."""
