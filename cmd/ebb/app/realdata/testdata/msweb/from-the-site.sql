SELECT visitor FROM about WHERE category = 'developer' AND day > today() - 60
