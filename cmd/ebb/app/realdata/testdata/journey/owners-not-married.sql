SELECT visitor FROM owners
