SELECT visitor FROM seen WHERE path = '/msdownload' AND day > today() - 30
