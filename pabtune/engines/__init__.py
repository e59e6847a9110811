"""What the engines that teams serve with can say of a policy: written for them, and read from their files."""
