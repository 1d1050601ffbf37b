"""What pictures are like: how well they follow their prompts, and how far a number format moves them."""
