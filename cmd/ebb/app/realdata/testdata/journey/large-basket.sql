SELECT visitor FROM bought WHERE amount >= 10 AND day > today() - 28
