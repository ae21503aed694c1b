SELECT visitor FROM bought WHERE department = 'grocery' AND day > today() - 30
