SELECT visitor FROM households WHERE age IN ('35-44', '45-54')
INTERSECT SELECT visitor FROM bought WHERE department = 'grocery' AND day > today() - 60
