"""What `zimage configure` knows and writes: cards, what was measured, the settings that suit, and the forms of them."""
