"""Ways to serve one pose network that people write without hrpose; `make bench` compares them."""
