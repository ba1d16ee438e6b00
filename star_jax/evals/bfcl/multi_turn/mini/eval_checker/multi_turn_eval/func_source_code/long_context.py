"""What makes a dialogue long: notes that nobody asked for."""

OLD_NOTES = {f"old list {number:03}": "milk, eggs, " * 20 for number in range(100)}
