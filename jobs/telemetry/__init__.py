"""What operators are told: log lines and spans, and how they leave the process."""
