# Two commands do all the set-up: `make demo` and `make test`. Everything else is `cargo xtask`.
.PHONY: demo test soak build check bench clean setup

demo: setup ## boots a real microVM and runs a Python program inside it
	cargo xtask demo

test: setup ## everything: format, lints, unit, property, store and end-to-end tests with real VMs
	cargo xtask test

soak: setup ## what takes longer than CI has: fuzzing, the whole kill matrix, a thousand cycles
	cargo xtask soak

build: setup ## target/release/atoll
	cargo xtask build

bench: setup ## figures, on the shipped profile
	cargo xtask bench footprint
	cargo xtask bench boot
	cargo xtask bench exec
	cargo xtask bench streams
	cargo xtask bench dns
	cargo xtask bench life
	cargo xtask bench durable

check: ## what can be said without running anything
	cargo xtask check

clean: ## what was built in this clone; images and the build cache outside stay
	cargo clean

setup:
	@scripts/setup
