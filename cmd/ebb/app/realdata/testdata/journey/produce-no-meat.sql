SELECT visitor FROM bought WHERE department = 'produce' AND day > today() - 60
EXCEPT SELECT visitor FROM bought WHERE department IN ('meat', 'meat-pckgd')
