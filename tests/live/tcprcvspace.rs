pub fn tests() -> Vec<libtest_mimic::Trial> { vec![] }
